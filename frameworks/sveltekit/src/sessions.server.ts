import { sessionManager } from 'keepsake'

export type Fields = { cart: readonly string[]; page: string; api: string }

export const manager = sessionManager<Fields>({ backend: process.env.SESSIONS ?? 'memory:' })
