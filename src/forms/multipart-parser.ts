// The parser of multipart bodies, which is loaded when the first of them comes.

import { namesOf } from '../packages.ts'

const load = async () => {
  if ('require' in globalThis) return namesOf(await import('@fastify/busboy')).Busboy
  /*
   * The parser is CommonJS, and requires modules of Node. In an ES module esbuild makes of that a call of a global
   * `require`, which Node has not there; so there is one for the turn in which a bundle loads what is in it.
   */
  Reflect.set(globalThis, 'require', process.getBuiltinModule)
  const loading = import('@fastify/busboy')
  await undefined
  Reflect.deleteProperty(globalThis, 'require')
  return namesOf(await loading).Busboy
}

let loading: ReturnType<typeof load> | undefined

/** The class, loaded once. */
export const multipartParser = (): ReturnType<typeof load> => {
  loading ??= load()
  return loading
}
