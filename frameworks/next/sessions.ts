import { type SessionEvent, sessionManager } from 'keepsake'
import { forNext } from 'keepsake/next'

type Fields = { cart: readonly string[]; n: number }

const log = (event: SessionEvent) => {
  const text = event.error === undefined ? (event.message ?? '') : String(event.error)
  if (event.type !== 'created' && event.type !== 'login') console.log(`event ${event.type} ${text}`)
}

export const { session, addFlash, takeFlash, csrfField, readForm, saving, proxy, manager } = forNext(() =>
  sessionManager<Fields>({ backend: process.env.SESSIONS ?? 'memory:', onEvent: log }),
)
