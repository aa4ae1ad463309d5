// The backend that remembers which sessions have ended: it must be a store that never forgets an entry too early.

import { type Awaitable, chain } from '../error.ts'
import type { Backend } from './contract.ts'

/**
 * A backend for ends that checks its store before its first operation. If the store may forget ends, so that ended cookies
 * would open again, every operation throws.
 *
 * @throws KeepsakeError `invalid_option`, from each operation
 */
export const checkedEnds = (ends: Backend): Backend => {
  if (ends.check === undefined) return ends
  let isChecked = false
  let warning: string | undefined
  const check = (): Awaitable<string | undefined> =>
    isChecked
      ? warning
      : chain(ends.check?.('ends'), (answer) => {
          isChecked = true
          warning = answer
          return answer
        })
  const afterCheck = <T>(act: () => Awaitable<T>): Awaitable<T> => (isChecked ? act() : chain(check(), act))
  return {
    ...ends,
    check,
    get: (key) => afterCheck(() => ends.get(key)),
    generate: (key, entry) => afterCheck(() => ends.generate(key, entry)),
    set: (key, change, version) => afterCheck(() => ends.set(key, change, version)),
    clear: (key, version, mark) => afterCheck(() => ends.clear(key, version, mark)),
    touch: (key, expiresAt) => afterCheck(() => ends.touch(key, expiresAt)),
  }
}
