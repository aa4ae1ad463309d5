// Adapter cases about requests that no browser sends: nothing that arrives may stop the server.

import assert from 'node:assert/strict'
import { session } from '../../request.ts'
import { type CaseHandler, json } from './application.ts'
import { type AdapterCase, caseOn } from './stage.ts'

const handlers: Record<string, CaseHandler> = {
  '/count': async (x) => {
    const s = await session<{ n: number }>(x)
    s.update('n', (n = 0) => n + 1)
    return json(s.get('n'))
  },
}

/** Requests that servers get from attackers, old clients and misconfigured proxies. Any answer is right; a crash is not. */
const oddRequests: Readonly<Record<string, string>> = {
  'no Host, in HTTP/1.0': 'GET /count HTTP/1.0\r\n\r\n',
  'an empty Host': 'GET /count HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n',
  'a Host with a space': 'GET /count HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n',
  'a Host with a user': 'GET /count HTTP/1.1\r\nHost: user:pass@x\r\nConnection: close\r\n\r\n',
  'a Host that is half an IPv6 address': 'GET /count HTTP/1.1\r\nHost: [::1\r\nConnection: close\r\n\r\n',
  'a Host with a port that is too large': 'GET /count HTTP/1.1\r\nHost: a:99999999\r\nConnection: close\r\n\r\n',
  'an absolute target': 'GET http://other.example/count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'a target of two slashes': 'GET // HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'a target that is no valid escape': 'GET /count?%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'OPTIONS *': 'OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  CONNECT: 'CONNECT other.example:443 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  TRACE: 'TRACE /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'a method of another protocol': 'PROPFIND /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  'bytes above 0x7f in fields':
    'GET /count HTTP/1.1\r\nHost: a\r\nX-Name: \xe9\xff\r\nReferer: \xe9\r\nConnection: close\r\n\r\n',
  'cookies without names and values':
    'GET /count HTTP/1.1\r\nHost: a\r\nCookie: ;;=;a;=b; \x80=\xff; sid-80\r\nConnection: close\r\n\r\n',
  'a forwarded host that is no host':
    'GET /count HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: a b\r\nX-Forwarded-Proto: x y\r\nConnection: close\r\n\r\n',
}

export const oddRequestCases: readonly AdapterCase[] = [
  ...Object.entries(oddRequests).map(([name, request]) =>
    caseOn('synchronous', `${name}: the request gets an answer or a closed connection, and the server lives on`, {
      handlers,
      async run({ send, assertAlive, visitor }) {
        await send(request)
        await assertAlive()
        assert.equal(await (await visitor()('/count')).json(), 1)
      },
    }),
  ),
]
