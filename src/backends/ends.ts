// Where ends of sessions are kept: only in a store that forgets none of them.

import { type Awaitable, chain } from '../error.ts'
import type { Backend } from './contract.ts'

/**
 * A backend for ends that is looked at before it is first used. A store that may forget ends, so that cookies which were
 * logged out would open again, throws its KeepsakeError `invalid_option` from every call.
 */
export const checkedEnds = (ends: Backend): Backend => {
  if (ends.check === undefined) return ends
  let checked = false
  let warning: string | undefined
  const check = (): Awaitable<string | undefined> =>
    checked
      ? warning
      : chain(ends.check?.('ends'), (words) => {
          checked = true
          warning = words
          return words
        })
  const first = <T>(act: () => Awaitable<T>): Awaitable<T> => (checked ? act() : chain(check(), act))
  return {
    ...ends,
    check,
    get: (key) => first(() => ends.get(key)),
    generate: (key, entry) => first(() => ends.generate(key, entry)),
    set: (key, change, version) => first(() => ends.set(key, change, version)),
    clear: (key, version, mark) => first(() => ends.clear(key, version, mark)),
    touch: (key, expiresAt) => first(() => ends.touch(key, expiresAt)),
  }
}
