// Assertions that many tests share.

import { KeepsakeError } from 'keepsake'

/** For `assert.throws` and `assert.rejects`: the error is a KeepsakeError with this code. */
export const code = (expected: string) => (error: unknown) => error instanceof KeepsakeError && error.code === expected
