// The session manager of the application.

import { sessionManager } from 'keepsake'

export const manager = sessionManager({ backend: process.env.SESSIONS ?? 'memory:' })

export type Fields = { cart: string[] }
