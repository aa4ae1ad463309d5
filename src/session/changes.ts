// The log of a visit's changes, and its replay on a newer value.

import { frozenCopy, type Json, setOwn } from '../json.ts'

export type Fields = { readonly [field: string]: Json }

/** The name under which flash messages lie beside the fields: no field of an application can have it. */
export const FLASH = 'keepsake.flash'

/** One change: a field set, dropped or computed from what it was; or all fields dropped but those kept, and flash messages. */
export type FieldChange =
  | { readonly set: string; readonly value: Json }
  | { readonly delete: string }
  | { readonly update: string; readonly by: (value: unknown) => unknown }
  | { readonly keep: readonly string[] }

/** Fields of a visit's own, that it may change. */
export type Draft = Record<string, Json>

export const draftOf = (fields: Fields): Draft => ({ ...fields })

/** The value of a field, safe to hand out: nobody can change it, nor what lies within it. */
export const fieldOf = (fields: Fields, field: string): Json | undefined =>
  Object.hasOwn(fields, field) ? deepFreeze(fields[field] as Json) : undefined

const deepFreeze = (value: Json): Json => {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  for (const item of Object.values(value)) deepFreeze(item)
  return Object.freeze(value)
}

/**
 * Applies one change to a draft, in place where it can.
 *
 * @throws as `replay`; the draft is then as it was
 */
export const applyChange = (draft: Draft, change: FieldChange): Draft => {
  if ('set' in change) {
    setOwn(draft, change.set, change.value)
  } else if ('delete' in change) {
    delete draft[change.delete]
  } else if ('update' in change) {
    setOwn(draft, change.update, frozenCopy(change.by(fieldOf(draft, change.update)), change.update))
  } else {
    const kept = draftOf({})
    for (const field of [FLASH, ...change.keep])
      if (Object.hasOwn(draft, field)) setOwn(kept, field, draft[field] as Json)
    return kept
  }
  return draft
}

/**
 * What `fields` become by a log of changes. The fields given stay as they are.
 *
 * @throws whatever the function of an `update` throws, and KeepsakeError `not_json` where it returns what JSON cannot keep
 */
export const replay = (fields: Fields, changes: readonly FieldChange[]): Fields =>
  changes.reduce(applyChange, draftOf(fields))

/** How deep a value may be nested: what `set` allows within a field, and the fields around it. */
const DEEPEST = 66

/** Whether a value is nested deeper than any that we print: whoever walks it would run out of stack. */
const tooDeep = (value: unknown, depth: number): boolean => {
  if (typeof value !== 'object' || value === null) return false
  if (depth === DEEPEST) return true
  for (const name in value) if (tooDeep((value as Fields)[name], depth + 1)) return true
  return false
}

/** The fields that an entry's value holds, or undefined where it does not hold fields. */
export const parseFields = (value: string | undefined): Fields | undefined => {
  if (value === undefined) return {}
  try {
    const fields: unknown = JSON.parse(value)
    if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) return undefined
    return tooDeep(fields, 0) ? undefined : (fields as Fields)
  } catch {
    return undefined
  }
}
