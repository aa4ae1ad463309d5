// Requests that fetch a page ahead, before anybody asked to see it.

/**
 * Headers that say what a request is for. Browsers send Sec-Purpose (Chromium, Firefox) or, when they are older, Purpose
 * (Chromium, Safari), X-Purpose (Safari, Opera, Facebook's), X-Moz (Firefox), Sec-Fetch-Purpose or Moz-Purpose. Scripts
 * cannot set names that begin with Sec-: Turbo sends X-Sec-Purpose; Inertia and the Pages Router of Next.js send Purpose.
 */
const purposes = ['sec-purpose', 'purpose', 'x-sec-purpose', 'x-purpose', 'x-moz', 'sec-fetch-purpose', 'moz-purpose']

/** `prefetch;prerender`, `prefetch; anonymous-client-ip`, `"preview"`; but no word that merely has one of these in it. */
const ahead = /(?<![\w-])(prefetch|prerender|preview)(?![\w-])/i

/** Headers that only requests ahead have: of the App Router and the Pages Router of Next.js, and of htmx. */
const marks = ['next-router-prefetch', 'next-router-segment-prefetch', 'x-middleware-prefetch', 'hx-preloaded']

/**
 * Whether a request says that it fetches a page ahead, in any of the words that browsers and scripts have for it. What a
 * script fetches ahead without a word cannot be known: SvelteKit's data, or quicklink's and Astro's pages in a browser that
 * has no `<link rel=prefetch>`, of which the browser itself says what it is.
 */
export const isPrefetch = ({ headers }: { readonly headers: Headers }): boolean =>
  purposes.some((name) => ahead.test(headers.get(name) ?? '')) || marks.some((name) => headers.has(name))
