// Gives an error the members by which React Router finds the status of an error.

import type { KeepsakeError } from '../../error.ts'

/** React Router answers with 500 if an error is no response of a route. */
export const withStatusText = (error: KeepsakeError): KeepsakeError =>
  Object.assign(error, { statusText: error.message, internal: false, data: error.message })
