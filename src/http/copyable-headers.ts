// Headers that frameworks can copy like a plain object, for the `headers` of an error.

/**
 * Makes the fields of Headers visible as properties, and hides the methods from loops. Frameworks copy `error.headers` to the
 * response: Express, Fastify and Koa 3 by `Object.keys`, which finds nothing in Headers, and Koa 2 by `for…in`, which finds the
 * methods and fails. Set-Cookie is a list.
 *
 * @param headers none of its names may be the name of a method of Headers
 */
export const copyableHeaders = (headers: Headers): Headers => {
  const target = headers as Headers & Record<string, unknown>
  for (const name in target) {
    // A property of the object that is not enumerable also hides the one of its prototype.
    if (!Object.hasOwn(target, name)) Object.defineProperty(target, name, { value: target[name], writable: true })
  }
  for (const name of headers.keys()) {
    if (Object.hasOwn(target, name)) continue
    const get = () => (name === 'set-cookie' ? headers.getSetCookie() : headers.get(name))
    Object.defineProperty(target, name, { get, enumerable: true })
  }
  return headers
}
