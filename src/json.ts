// Values that JSON keeps: taken as a frozen copy, or refused with the path to what it cannot keep.

import { KeepsakeError } from './error.ts'

export type Json = string | number | boolean | null | readonly Json[] | { readonly [field: string]: Json }

/** Sets an own property, also one whose name every object inherits: `__proto__`, or any where prototypes are frozen. */
export const setOwn = (copy: Record<string, Json>, name: string, value: Json): void => {
  if (!(name in Object.prototype)) copy[name] = value
  else Object.defineProperty(copy, name, { value, enumerable: true, configurable: true, writable: true })
}

/** How deep a value may be nested: far from any stack's end, in every reader of the same record. */
const DEEPEST = 64

const refuse = (path: string, what: string): never => {
  throw new KeepsakeError('not_json', `${path} is ${what}, which JSON cannot keep`)
}

const named = (path: string, name: string): string =>
  /^[A-Za-z_$][\w$]*$/.test(name) ? `${path}.${name}` : `${path}[${JSON.stringify(name)}]`

const kind = (value: object): string => {
  const maker: unknown = value.constructor
  return typeof maker === 'function' && maker.name ? `a ${maker.name}` : 'an object of a class'
}

/**
 * A copy of `value` that shares nothing with it and that nobody can change.
 *
 * A property that is `undefined` is left out, as JSON does: it reads as `undefined` either way.
 *
 * @param path what the value is called in the error, such as `cart`
 * @throws KeepsakeError `not_json`, for functions, symbols, bigints, NaN, infinities, `undefined` itself, holes in arrays, dates,
 *   maps and other objects of a class, circles, and whatever is nested more than 64 deep
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
  if (depth === DEEPEST) return refuse(path, `nested more than ${DEEPEST} deep`)
  if (Array.isArray(value)) {
    const copy: Json[] = []
    for (let i = 0; i < value.length; i++) copy.push(frozenObject(value[i], `${path}[${i}]`, depth + 1))
    return Object.freeze(copy)
  }
  const prototype = Object.getPrototypeOf(value)
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) return refuse(path, kind(value))
  if (Object.getOwnPropertySymbols(value).length > 0) return refuse(path, 'an object with a symbol as a key')
  const copy: Record<string, Json> = {}
  for (const [name, item] of Object.entries(value)) {
    if (item === undefined) continue
    setOwn(copy, name, frozenObject(item, named(path, name), depth + 1))
  }
  return Object.freeze(copy)
}
