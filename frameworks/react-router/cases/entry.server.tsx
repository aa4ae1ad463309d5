import type { HandleErrorFunction } from 'react-router'

export const handleError: HandleErrorFunction = (error, { context }) =>
  globalThis.application.middleware.abandon(context, error)

// The cases render no page.
export default () => new Response(null, { status: 404 })
