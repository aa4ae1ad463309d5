// Exports the adapter for Next.js.

export { forNext, type NextOptions, type NextSessions } from './next/adapter.ts'
