// Loads the parser of multipart bodies when the first of them arrives.

import { namesOf } from '../packages.ts'

const load = async () => {
  if ('require' in globalThis) return namesOf(await import('@fastify/busboy')).Busboy
  /*
   * The parser is CommonJS and requires modules of Node. In an ES module, esbuild turns that into a call of a global
   * `require`, which Node does not have there. So a global `require` exists while a bundle loads the parser.
   */
  Reflect.set(globalThis, 'require', process.getBuiltinModule)
  const loading = import('@fastify/busboy')
  await undefined
  Reflect.deleteProperty(globalThis, 'require')
  return namesOf(await loading).Busboy
}

let loading: ReturnType<typeof load> | undefined

/** The parser's class, loaded once. */
export const multipartParser = (): ReturnType<typeof load> => {
  loading ??= load()
  return loading
}
