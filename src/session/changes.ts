// The changes of a request, and their replay on newer fields.

import { frozenCopy, type Json, MAX_DEPTH, setOwn } from '../json.ts'

export type Fields = { readonly [field: string]: Json }

/** The name of the flash messages beside the fields. No field of an application can have it. */
export const FLASH = 'keepsake.flash'

/** One change: sets a field, deletes it, computes it from its value, or deletes all fields but some and the flash messages. */
export type FieldChange =
  | { readonly set: string; readonly value: Json }
  | { readonly delete: string }
  | { readonly update: string; readonly by: (value: unknown) => unknown }
  | { readonly keep: readonly string[] }

/** A copy of the fields that a request may change. */
export type Draft = Record<string, Json>

export const draftOf = (fields: Fields): Draft => ({ ...fields })

/** The value of a field, deeply frozen: the caller cannot change it. */
export const fieldOf = (fields: Fields, field: string): Json | undefined =>
  Object.hasOwn(fields, field) ? deepFreeze(fields[field] as Json) : undefined

const deepFreeze = (value: Json): Json => {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  for (const item of Object.values(value)) deepFreeze(item)
  return Object.freeze(value)
}

/**
 * Applies one change to a draft, and returns the draft, or a new one if only some fields remain.
 *
 * @throws as `replay`; the draft is then unchanged
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
 * Applies changes to a copy of the fields.
 *
 * @throws the error of the function of an `update`; KeepsakeError `not_json` if JSON cannot store its result
 */
export const replay = (fields: Fields, changes: readonly FieldChange[]): Fields =>
  changes.reduce(applyChange, draftOf(fields))

/** The deepest nesting that is read from an entry: more than the 64 levels that `set` allows in a field. */
const DEEPEST = MAX_DEPTH + 2

/** Whether a value is nested deeper than any that keepsake writes: a function that walks it could exhaust the stack. */
const tooDeep = (value: unknown, depth: number): boolean => {
  if (typeof value !== 'object' || value === null) return false
  if (depth === DEEPEST) return true
  for (const name in value) if (tooDeep((value as Fields)[name], depth + 1)) return true
  return false
}

/** The fields in an entry's value. Undefined if the value is not a JSON object, or is nested too deeply. */
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
