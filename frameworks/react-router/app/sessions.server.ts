import { sessionManager } from 'keepsake'
import { forReactRouter } from 'keepsake/react-router'

export type Fields = { cart: readonly string[]; page: string; api: string }

export const manager = sessionManager<Fields>({ backend: process.env.SESSIONS ?? 'memory:' })
export const sessions = forReactRouter(manager, { load: true })
