// Packages that are loaded when they are first wanted, in the shapes in which bundlers hand them over.

import { KeepsakeError, messageOf } from './error.ts'

/** What Node's namespace of a CommonJS package has beside its names. */
const whole = ['default', 'module.exports']

/**
 * The names of a CommonJS package: where webpack sees a function exported, as Next's does, they are in `default` alone.
 * Nothing is copied: a getter may print, as one of ioredis does.
 */
export const namesOf = <Module extends object>(module: Module): Module => {
  const named = Object.keys(module).some((key) => !whole.includes(key))
  return named ? module : ((module as { default?: Module }).default ?? module)
}

/**
 * A driver, which the application has to install. In the place of one that it has not, bundlers leave an import that
 * fails, each with an error of its own, or, as Next on webpack, an empty module. They leave it only where the `import()`
 * stands in a `try` itself: elsewhere most of them refuse to bundle at all.
 *
 * @throws KeepsakeError `unknown_backend`, its cause what the import failed with
 */
export const installed = async <Module extends object>(name: string, load: () => Promise<Module>): Promise<Module> => {
  let names: Module
  try {
    names = namesOf(await load())
  } catch (cause) {
    const there = !String((cause as { code?: unknown } | undefined)?.code).endsWith('MODULE_NOT_FOUND')
    const why = there ? `, which could not be loaded (${messageOf(cause)})` : ''
    throw new KeepsakeError(
      'unknown_backend',
      `The backend of this URL needs the package ${name}${why}: npm install ${name}`,
      {
        cause,
      },
    )
  }
  if (Object.keys(names).length > 0) return names
  throw new KeepsakeError('unknown_backend', `The backend of this URL needs the package ${name}: npm install ${name}`)
}
