// Requests that fetch a page ahead, in all the words that browsers and scripts have for it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isPrefetch } from '../../src/http/prefetch.ts'

const said = (name: string, value: string) => isPrefetch({ headers: new Headers({ [name]: value }) })

test('whatever the header is called, and whatever else it says', () => {
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
      assert.ok(said(name, value), `${name}: ${value}`)
    }
    for (const value of ['', 'navigate', 'prefetched', 'no-prefetch', 'prefetch-not', 'previews', 'document']) {
      assert.ok(!said(name, value), `${name}: ${value}`)
    }
  }
})

test('scripts with a header of their own', () => {
  for (const [name, value] of [
    ['Next-Router-Prefetch', '1'],
    ['Next-Router-Prefetch', '2'],
    ['Next-Router-Segment-Prefetch', '/_tree'],
    ['x-middleware-prefetch', '1'],
    ['HX-Preloaded', 'true'],
  ] as const) {
    assert.ok(said(name, value), name)
  }
})

test('what is asked for to be shown is no prefetch', () => {
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
