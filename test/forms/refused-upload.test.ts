// A form that is refused during a large upload: the rest is read, because browsers read the response only then.

import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'
import { crossOriginProtection, type Handler, readForm, sessionManager } from 'keepsake'
import { serve } from 'keepsake/serve'

const refusing = (limits: Parameters<typeof readForm>[2]): Handler => {
  return async (request) => {
    const form = await readForm(request, undefined, limits)
    return new Response(form.ok ? 'accepted' : form.error, { status: form.ok ? 200 : form.status })
  }
}

const handlers: Record<string, Handler> = {
  'its token is missing': refusing({ upload: () => {} }),
  'it is too large': refusing({ csrf: false, maxBytes: 1000 }),
  'it may come from another site': crossOriginProtection(refusing({})),
}

for (const [why, handler] of Object.entries(handlers)) {
  test(`a browser can send the whole of a form that is refused because ${why}`, async (t) => {
    const running = await serve(sessionManager({ backend: 'memory:' })(handler), { port: 0 })
    t.after(() => running.close())
    const head = '--x\r\ncontent-disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
    const body = Buffer.concat([Buffer.from(head), Buffer.alloc(20_000_000), Buffer.from('\r\n--x--\r\n')])
    const socket = connect(running.port, '127.0.0.1')
    t.after(() => socket.destroy())
    let response = ''
    socket.setEncoding('latin1').on('data', (text) => {
      response += text
    })
    const lines = [
      'POST / HTTP/1.1',
      `host: localhost:${running.port}`,
      'content-type: multipart/form-data; boundary=x',
      'transfer-encoding: chunked',
    ]
    socket.write(`${lines.join('\r\n')}\r\n\r\n${body.length.toString(16)}\r\n`)
    const sent = await new Promise<unknown>((resolve) => {
      socket.on('error', resolve).on('close', () => resolve('closed by the server'))
      socket.write(body)
      socket.write('\r\n0\r\n\r\n', (error) => resolve(error ?? 'sent'))
    })
    assert.equal(sent, 'sent')
    assert.match(response, /^HTTP\/1\.1 4\d\d /)
  })
}
