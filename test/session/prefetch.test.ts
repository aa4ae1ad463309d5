// Requests that fetch a page in advance, by all the headers that browsers and scripts send with them.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isPrefetch } from '../../src/http/prefetch.ts'

const isPrefetchWith = (name: string, value: string) => isPrefetch({ headers: new Headers({ [name]: value }) })

test('every name of the header counts, also with other parameters in its value', () => {
  const names = ['Sec-Purpose', 'Purpose', 'X-Sec-Purpose', 'X-Purpose', 'X-Moz', 'Sec-Fetch-Purpose', 'Moz-Purpose']
  for (const name of names) {
    for (const value of [
      'prefetch',
      'prerender',
      'preview',
      'Prefetch',
      'prefetch;prerender',
      'prefetch;prerender;preview',
      'prefetch; anonymous-client-ip',
      'prefetch;anonymous-client-ip;x="y"',
      'x, prefetch',
      '"prefetch"',
      // As Opera and Internet Explorer sent it.
      ': preview',
    ]) {
      assert.ok(isPrefetchWith(name, value), `${name}: ${value}`)
    }
    for (const value of ['', 'navigate', 'prefetched', 'no-prefetch', 'prefetch-not', 'previews', 'document']) {
      assert.ok(!isPrefetchWith(name, value), `${name}: ${value}`)
    }
  }
})

test('the headers of scripts count too', () => {
  for (const [name, value] of [
    ['Next-Router-Prefetch', '1'],
    ['Next-Router-Prefetch', '2'],
    ['Next-Router-Segment-Prefetch', '/_tree'],
    ['x-middleware-prefetch', '1'],
    ['HX-Preloaded', 'true'],
  ] as const) {
    assert.ok(isPrefetchWith(name, value), name)
  }
})

test('a request for a page that is shown at once is no prefetch', () => {
  for (const headers of [
    {},
    { 'sec-fetch-dest': 'document', 'sec-fetch-mode': 'navigate', 'sec-fetch-site': 'same-origin' },
    { rsc: '1', 'next-router-state-tree': '[]' },
    { 'turbo-frame': 'list', 'hx-request': 'true', 'x-inertia': 'true' },
    { accept: 'text/html', referer: 'https://app.test/prefetch', cookie: 'purpose=prefetch' },
  ]) {
    assert.ok(!isPrefetch({ headers: new Headers(headers as Record<string, string>) }), JSON.stringify(headers))
  }
})
