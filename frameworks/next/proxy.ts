export { proxy } from './sessions'

// Pages with forms, and no prefetches of them.
export const config = {
  matcher: [
    {
      source: '/((?!_next/|favicon.ico|api/|none).*)',
      missing: [{ type: 'header', key: 'next-router-prefetch' }],
    },
  ],
}
