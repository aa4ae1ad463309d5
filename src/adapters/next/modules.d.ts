// Declares the parts of Next.js that are used here, so that keepsake compiles although Next.js is not installed.

declare module 'next/headers.js' {
  export function headers(): Promise<Pick<Headers, 'get' | 'has' | 'keys'>>
  export function cookies(): Promise<import('./request-head.ts').CookieJar>
}

declare module 'next/cache.js' {
  export function refresh(): void
}
