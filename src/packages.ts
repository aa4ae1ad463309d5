// Optional packages, loaded at their first use, in the shapes in which bundlers provide them.

import { KeepsakeError, messageOf } from './error.ts'

/** The names that Node adds to the namespace of a CommonJS package. */
const ADDED_BY_NODE = ['default', 'module.exports']

/**
 * The exports of a CommonJS package. If webpack sees that a package exports a function, as in Next.js, they are in
 * `default` alone. They are not copied, because a getter may print, as one of ioredis does.
 */
export const namesOf = <Module extends object>(module: Module): Module => {
  const named = Object.keys(module).some((key) => !ADDED_BY_NODE.includes(key))
  return named ? module : ((module as { default?: Module }).default ?? module)
}

/**
 * Loads a package that the application must install. If it is not installed, bundlers put something else in its place:
 * an import that fails, or, for Next.js on webpack, an empty module. They do so only if the `import()` is inside a
 * `try` of its own; otherwise most of them refuse to bundle.
 *
 * @param user the feature that needs the package, for the error
 * @throws KeepsakeError `missing_package`, or `unknown_backend` for a driver; its cause is the error of the import
 */
export const importPackage = async <Module extends object>(
  user: string,
  name: string,
  load: () => Promise<Module>,
  code: 'missing_package' | 'unknown_backend' = 'missing_package',
): Promise<Module> => {
  let exported: Module
  try {
    exported = namesOf(await load())
  } catch (cause) {
    const isInstalled = !String((cause as { code?: unknown } | undefined)?.code).endsWith('MODULE_NOT_FOUND')
    const why = isInstalled ? `, which could not be loaded (${messageOf(cause)})` : ''
    throw new KeepsakeError(code, `${user} needs the package ${name}${why}: npm install ${name}`, { cause })
  }
  if (Object.keys(exported).length > 0) return exported
  throw new KeepsakeError(code, `${user} needs the package ${name}: npm install ${name}`)
}

/** Loads the driver of a backend. @throws KeepsakeError `unknown_backend` */
export const importDriver = <Module extends object>(name: string, load: () => Promise<Module>): Promise<Module> =>
  importPackage('The backend of this URL', name, load, 'unknown_backend')
