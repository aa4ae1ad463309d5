// JSON values: a value is copied and frozen, or refused with the path to the part that JSON cannot represent.

import { KeepsakeError } from './error.ts'

export type Json = string | number | boolean | null | readonly Json[] | { readonly [field: string]: Json }

/**
 * Sets an own property, also if every object inherits the name: `__proto__`, or `constructor` if prototypes are frozen.
 */
export const setOwn = (copy: Record<string, Json>, name: string, value: Json): void => {
  if (!(name in Object.prototype)) copy[name] = value
  else Object.defineProperty(copy, name, { value, enumerable: true, configurable: true, writable: true })
}

/** How deep a value may be nested: far below the limit of any stack, for every program that reads the same entry. */
export const MAX_DEPTH = 64

const refuse = (path: string, what: string): never => {
  throw new KeepsakeError(
    'not_json',
    `${path} is ${what}, which JSON cannot keep. Use strings, finite numbers, booleans, null, arrays and plain objects.`,
  )
}

const pathTo = (path: string, name: string): string =>
  /^[A-Za-z_$][\w$]*$/.test(name) ? `${path}.${name}` : `${path}[${JSON.stringify(name)}]`

const className = (value: object): string => {
  const constructedBy: unknown = value.constructor
  return typeof constructedBy === 'function' && constructedBy.name ? `a ${constructedBy.name}` : 'an object of a class'
}

/**
 * A frozen copy of `value` that shares nothing with it. A property that is `undefined` is left out, as in JSON.
 *
 * @param path the name of the value in the error, such as `cart`
 * @throws KeepsakeError `not_json` for functions, symbols, bigints, NaN, infinities, `undefined` itself, holes in
 *   arrays, dates, maps and other objects of a class, circular values, and values nested more than 64 deep
 */
export const frozenCopy = (value: unknown, path: string): Json => {
  if (typeof value === 'string' || typeof value === 'boolean' || value === null) return value
  return frozenObject(value, /^[\w$ -]+$/.test(path) ? path : JSON.stringify(path), 0)
}

const frozenObject = (value: unknown, path: string, depth: number): Json => {
  if (typeof value === 'string' || typeof value === 'boolean' || value === null) return value
  if (typeof value === 'number') return Number.isFinite(value) ? value : refuse(path, String(value))
  if (value === undefined) return refuse(path, 'undefined')
  if (typeof value !== 'object') return refuse(path, `a ${typeof value}`)
  if (depth === MAX_DEPTH) return refuse(path, `nested more than ${MAX_DEPTH} deep`)
  if (Array.isArray(value)) {
    const copy: Json[] = []
    for (let i = 0; i < value.length; i++) copy.push(frozenObject(value[i], `${path}[${i}]`, depth + 1))
    return Object.freeze(copy)
  }
  const prototype = Object.getPrototypeOf(value)
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) return refuse(path, className(value))
  if (Object.getOwnPropertySymbols(value).length > 0) return refuse(path, 'an object with a symbol as a key')
  const copy: Record<string, Json> = {}
  for (const [name, item] of Object.entries(value)) {
    if (item === undefined) continue
    setOwn(copy, name, frozenObject(item, pathTo(path, name), depth + 1))
  }
  return Object.freeze(copy)
}
