// Recognises prefetches: requests for a page that the visitor has not asked to see yet.

import type { RequestHead } from './request-head.ts'

/**
 * Headers that name the purpose of a request. Browsers send Sec-Purpose (Chromium, Firefox) or, when they are older,
 * Purpose (Chromium, Safari), X-Purpose (Safari, Opera, Facebook's), X-Moz (Firefox), Sec-Fetch-Purpose or Moz-Purpose.
 * Scripts cannot set names that begin with Sec-: Turbo sends X-Sec-Purpose; Inertia and the Pages Router of Next.js
 * send Purpose.
 */
const purposeHeaders = [
  'sec-purpose',
  'purpose',
  'x-sec-purpose',
  'x-purpose',
  'x-moz',
  'sec-fetch-purpose',
  'moz-purpose',
]

/**
 * Matches `prefetch;prerender`, `prefetch; anonymous-client-ip` and `"preview"`, but no longer word that contains one
 * of them.
 */
const prefetchWord = /(?<![\w-])(prefetch|prerender|preview)(?![\w-])/i

/** Headers that only prefetches have: of the App Router and the Pages Router of Next.js, and of htmx. */
const prefetchHeaders = [
  'next-router-prefetch',
  'next-router-segment-prefetch',
  'x-middleware-prefetch',
  'hx-preloaded',
]

/**
 * Whether the headers of a request show that it is a prefetch. Some scripts send no such header, and their prefetches
 * are not recognised: SvelteKit's for data, and those of quicklink and Astro in a browser without `<link
 * rel=prefetch>`. With it, the browser sends the header.
 */
export const isPrefetch = ({ headers }: Pick<RequestHead, 'headers'>): boolean =>
  purposeHeaders.some((name) => prefetchWord.test(headers.get(name) ?? '')) ||
  prefetchHeaders.some((name) => headers.has(name))
