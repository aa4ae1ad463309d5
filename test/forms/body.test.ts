// Hostile bodies of forms: nothing throws, nothing waits, and nothing beyond the limits is kept.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { suite, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import {
  crossOriginProtection,
  csrfToken,
  type FormOptions,
  readForm,
  sessionManager,
  type UploadedFile,
} from 'keepsake'
import { browser } from 'keepsake/testing'
import { findField, readBody } from '../../src/forms/body.ts'
import { endless, inPieces, MULTIPART, posting, URLENCODED } from '../support/bodies.ts'

const MIB = 2 ** 20
const limits = { maxBytes: MIB, maxParts: 1_001, maxFileBytes: 10 * MIB }

/** The outcome of a body, with its fields and files. */
const read = async (request: Request, more: Partial<typeof limits> = {}) => {
  const pairs: [string, string][] = []
  const field = (name: string, value: string) => pairs.push([name, value]) > 0
  const file = ({ field: name, filename, bytes }: { field: string; filename: string; bytes: Uint8Array }) =>
    pairs.push([`${name}/${filename}`, Buffer.from(bytes).toString()]) > 0
  return { outcome: await readBody(request, { ...limits, ...more }, { field, file }), pairs }
}

const part = (headers: string, value = 'v', boundary = 'b') => `--${boundary}\r\n${headers}\r\n\r\n${value}\r\n`
const disposition = 'Content-Disposition: form-data'

suite('the output of the parser is checked', () => {
  const nameless: Record<string, string> = {
    'a part without a name': part(disposition),
    'a file without a name': part(`${disposition}; filename="a"`),
    'a part of bytes without a name': part(`${disposition}\r\nContent-Type: application/octet-stream`),
    'a name without a value': part(`${disposition}; name`),
    'a part without a name after a good one': part(`${disposition}; name="a"`) + part(disposition),
  }
  for (const [name, body] of Object.entries(nameless)) {
    for (const sizes of [[1], [7, 1], [100_000]]) {
      test(`${name}, in pieces of ${sizes}, is a broken body`, async () => {
        const whole = `${body}--b--\r\n`
        assert.equal((await read(posting(inPieces(Buffer.from(whole), sizes), MULTIPART))).outcome, 'broken')
        assert.equal(
          await findField(posting(inPieces(Buffer.from(part(disposition)), sizes), MULTIPART), 'x'),
          undefined,
        )
      })
    }
  }
  test('an empty name is a name', async () => {
    const body = `${part(`${disposition}; name=""`)}--b--\r\n`
    assert.deepEqual(await read(posting(body, MULTIPART)), { outcome: 'done', pairs: [['', 'v']] })
  })
  test('a stream of values that are no bytes is a broken body', async () => {
    for (const piece of ['a=1', 5, null, new Uint16Array(3), new ArrayBuffer(3), [97]]) {
      for (const type of [URLENCODED, MULTIPART]) {
        const body = new ReadableStream({ start: (controller) => controller.enqueue(piece) })
        assert.equal((await read(posting(body, type))).outcome, 'broken')
      }
    }
  })
  test('bytes of another realm are accepted', async () => {
    const body = new ReadableStream({
      start: (controller) => {
        controller.enqueue(runInNewContext('Uint8Array.of(97, 61, 49)'))
        controller.close()
      },
    })
    assert.deepEqual(await read(posting(body, URLENCODED)), { outcome: 'done', pairs: [['a', '1']] })
  })
  test('findField finds nothing in a body that another reader has locked', async () => {
    const request = posting('a=1', URLENCODED)
    request.body?.getReader()
    assert.equal(await findField(request, 'a'), undefined)
  })
})

test('urlencoded pairs equal those of URLSearchParams, in pieces of any size', async () => {
  // Not both at once, because Node's parser confuses characters outside ASCII with escapes that are no UTF-8.
  const of = (units: string) => fc.array(fc.string({ unit: fc.constantFrom(...units), maxLength: 12 }))
  const texts = fc.oneof(of('ab&=+%4fFcC3?;\0\r\n'), of('ab&=+é🦊?;\uFEFF'))
  await fc.assert(
    fc.asyncProperty(texts, fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 }), async (words, sizes) => {
      const text = words.join('&')
      const { outcome, pairs } = await read(posting(inPieces(Buffer.from(text), sizes), URLENCODED))
      assert.equal(outcome, 'done')
      // The constructor removes a first `?`, and a body has no such mark.
      assert.deepEqual(pairs, [...new URLSearchParams(`&${text}`)])
    }),
    { numRuns: 1_000 },
  )
})

test('multipart fields and files equal those of Request.formData, in pieces of any size', async () => {
  const value = fc.string({ unit: fc.constantFrom(...'ab\r\n-é🦊\0'), maxLength: 60 })
  const entry = fc.record({ value, file: fc.boolean() })
  const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 })
  await fc.assert(
    fc.asyncProperty(fc.array(entry, { minLength: 1, maxLength: 6 }), sizes, async (entries, pieces) => {
      // Node's own parser requires a boundary of 27 characters or more.
      const boundary = 'Z'.repeat(27)
      const one = (e: (typeof entries)[number], n: number) =>
        part(
          `${disposition}; name="n${n}"${e.file ? '; filename="f"\r\nContent-Type: text/plain' : ''}`,
          e.value,
          boundary,
        )
      const body = `${entries.map(one).join('')}--${boundary}--\r\n`
      const type = `multipart/form-data; boundary=${boundary}`
      const { outcome, pairs } = await read(posting(inPieces(Buffer.from(body), pieces), type))
      const expected = await Promise.all(
        [...(await posting(body, type).formData())].map(async ([name, v]) =>
          typeof v === 'string' ? [name, v] : [`${name}/f`, await v.text()],
        ),
      )
      assert.deepEqual([outcome, pairs], ['done', expected])
    }),
    { numRuns: 300 },
  )
})

suite('reading stops as soon as a limit is exceeded', () => {
  test('pairs and parts are counted before the rest is read', async () => {
    const pairs = endless('', 'a&')
    assert.equal((await read(posting(pairs.body, URLENCODED), { maxBytes: 500 * MIB })).outcome, 'too_large')
    assert.ok(pairs.taken.bytes <= 2 * MIB, `${pairs.taken.bytes}`)
    const parts = endless('', part(`${disposition}; name="a"`))
    assert.equal((await read(posting(parts.body, MULTIPART), { maxBytes: 500 * MIB })).outcome, 'too_large')
    assert.ok(parts.taken.bytes <= 2 * MIB, `${parts.taken.bytes}`)
  })

  const uploads = async (body: ReadableStream, upload: (file: UploadedFile) => unknown = () => {}) => {
    const page = sessionManager({ backend: 'memory:' })(async (request) => {
      const form = await readForm(request, undefined, { csrf: false, maxFileBytes: 3 * MIB, upload })
      return Response.json(form.ok ? 'ok' : [form.error, form.status])
    })
    return (await page(posting(body, MULTIPART))).json()
  }
  const named = `--b\r\n${disposition}; name="a"`
  const endlessBodies: Record<string, [head: string, more: string, most: number]> = {
    'a field': [`${named}\r\n\r\n`, 'x', MIB],
    'a field after others': [`${part(`${disposition}; name="c"`).repeat(50)}${named}\r\n\r\n`, 'x', MIB],
    'fields, each short,': ['', part(`${disposition}; name="a"`, 'x'.repeat(2_000)), 1.2 * MIB],
    'a line before the first part': ['', 'x', 0.1 * MIB],
    'the headers of a part': [`--b\r\n${disposition}; name="a"`, 'x', 0.1 * MIB],
    'a part that is no field': ['--b\r\nContent-Disposition: attachment\r\n\r\n', 'x', 0.1 * MIB],
    'parts that are no fields': ['', part('X: y', 'x'.repeat(100)), 0.2 * MIB],
    'parts without headers': ['', '--b\r\n', 0.1 * MIB],
    'the text after the last part': [`${part(`${disposition}; name="a"`)}--b--\r\n`, 'x', 0.1 * MIB],
    'a file': [`${named}; filename="f"\r\n\r\n`, 'x', 3 * MIB],
    'files, each short,': ['', part(`${disposition}; name="a"; filename="f"`, 'x'.repeat(2_000)), 0.4 * MIB],
  }
  /** Bytes that are read in advance, and the current piece. */
  const SLACK = 0.3 * MIB
  for (const [what, [head, more, most]] of Object.entries(endlessBodies)) {
    test(`${what} without an end, with uploads: too_large, and no more is read than the limit`, async () => {
      const { body, taken } = endless(head, more)
      let atRefusal = 0
      const page = sessionManager({ backend: 'memory:' })(async (request) => {
        const form = await readForm(request, undefined, { csrf: false, maxFileBytes: 3 * MIB, upload: () => {} })
        atRefusal = taken.bytes
        return Response.json(form.ok ? 'ok' : [form.error, form.status])
      })
      assert.deepEqual(await (await page(posting(body, MULTIPART))).json(), ['too_large', 413])
      assert.ok(atRefusal <= most + SLACK, `${atRefusal} bytes were read`)
    })
  }
  test('a refusal does not wait for the next piece', async () => {
    const head = `--b\r\n${disposition}; name="a"; filename="f"\r\n\r\nx`
    const body = new ReadableStream({ start: (controller) => controller.enqueue(Buffer.from(head)) })
    const full = () => {
      throw new Error('the disk is full')
    }
    await assert.rejects(uploads(body, full), /the disk is full/)
  })
  test('the reader of an upload may change and transfer its bytes', async () => {
    const value = '\r\n--\r\n-x'.repeat(5_000)
    let seen = ''
    const upload = async ({ stream }: UploadedFile) => {
      for await (const bytes of stream) {
        seen += Buffer.from(bytes).toString('latin1')
        bytes.fill(0)
        structuredClone(bytes, { transfer: [bytes.buffer] })
      }
    }
    const whole = `${part(`${disposition}; name="a"; filename="f"`, value)}--b--\r\n`
    assert.equal(await uploads(inPieces(Buffer.from(whole), [1, 3, 2_000]), upload), 'ok')
    assert.equal(seen, value)
  })
})

suite('a body that has arrived does not block other requests', () => {
  /** The number of rounds of the event loop during the work. */
  const roundsOf = async (work: () => Promise<unknown>): Promise<number> => {
    let rounds = 0
    let counting = true
    const count = () => {
      rounds++
      if (counting) setImmediate(count)
    }
    setImmediate(count)
    await work()
    counting = false
    return rounds
  }
  const bodies: Record<string, [type: string, body: string]> = {
    'one pair': [URLENCODED, `a=${'%41'.repeat(MIB / 3 - 1)}`],
    'a thousand pairs': [URLENCODED, `${'a'.repeat(1_000)}&`.repeat(1_000)],
    'one field': [MULTIPART, `${part(`${disposition}; name="a"`, '\r\n--'.repeat(MIB / 4 - 50))}--b--`],
    'a thousand files': [
      MULTIPART,
      `${part(`${disposition}; name="a"; filename="f"`, 'x'.repeat(900)).repeat(1_000)}--b--`,
    ],
    'one large header': [MULTIPART, part(`X: ${';='.repeat(MIB / 2 - 100)}\r\n${disposition}; name="a"`)],
  }
  for (const [what, [type, body]] of Object.entries(bodies)) {
    test(`the event loop runs other work after each 16 KiB of ${what}`, async () => {
      const request = posting(body, type)
      // A header that is too large ends the reading early.
      const least = what === 'one large header' ? 2 : body.length / 16_384 - 1
      const rounds = await roundsOf(() => read(request))
      assert.ok(rounds >= least, `${rounds} rounds`)
    })
  }
  test('the event loop runs other work after each 16 384 pieces of one byte', async () => {
    const request = posting(inPieces(Buffer.alloc(100_000, 'a')), URLENCODED)
    const rounds = await roundsOf(() => read(request))
    assert.ok(rounds >= 6, `${rounds} rounds`)
  })
})

test('a body in pieces of one byte, read or searched, needs little more memory than its bytes', async () => {
  const script = new URL('../support/memory-of-bodies.ts', import.meta.url)
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', fileURLToPath(script)])
  const grew: Record<string, number> = JSON.parse(stdout)
  assert.equal(Object.keys(grew).length, 6)
  for (const [what, bytes] of Object.entries(grew)) {
    assert.ok(bytes < 3e6, `${what}: 500 kB cost ${(bytes / 1e6).toFixed(1)} MB`)
  }
})

suite('the body of a refused request is read to its end or cancelled, so that its connection is free', () => {
  const bytes = Buffer.from(`${part(`${disposition}; name="f"; filename="f"`, 'x'.repeat(300_000))}--b--\r\n`)
  const made = (type: string) => {
    const { promise: end, resolve } = Promise.withResolvers<string>()
    let at = 0
    const body = new ReadableStream<Uint8Array>(
      {
        pull: (controller) => {
          controller.enqueue(new Uint8Array(bytes.subarray(at, at + 10_000)))
          at += 10_000
          if (at < bytes.length) return
          controller.close()
          resolve('read')
        },
        cancel: () => resolve('cancelled'),
      },
      { highWaterMark: 0 },
    )
    return { end, request: (headers = {}) => posting(body, type, headers) }
  }
  const forms = (options: FormOptions) => async (request: Request) => {
    const form = await readForm(request, undefined, options)
    return new Response(form.ok ? 'ok' : form.error, { status: form.ok ? 200 : form.status })
  }
  const full = () => {
    throw new Error('the disk is full')
  }
  const refusals: Record<string, [handler: (request: Request) => Promise<Response>, type: string, headers?: object]> = {
    'another site': [forms({}), MULTIPART, { origin: 'https://evil.test' }],
    'Origin: null': [forms({}), MULTIPART, { origin: 'null' }],
    'no evidence': [forms({}), MULTIPART, {}],
    'no evidence, no form': [forms({}), 'application/json', {}],
    'no form': [forms({}), 'application/json', { 'sec-fetch-site': 'same-origin' }],
    'no boundary': [forms({}), 'multipart/form-data', { 'sec-fetch-site': 'same-origin' }],
    'no token': [forms({ upload: () => {} }), MULTIPART, { 'sec-fetch-site': 'same-origin' }],
    'too large': [forms({ maxBytes: 1_000 }), MULTIPART, { 'sec-fetch-site': 'same-origin' }],
    'announced as too large': [
      forms({ maxBytes: 1_000 }),
      MULTIPART,
      { 'sec-fetch-site': 'same-origin', 'content-length': '400000' },
    ],
    'an upload that throws': [forms({ csrf: false, upload: full }), MULTIPART, { 'sec-fetch-site': 'same-origin' }],
  }
  for (const [why, [handler, type, headers]] of Object.entries(refusals)) {
    test(`after a refusal for the reason: ${why}`, async () => {
      const page = sessionManager({ backend: 'memory:' })(crossOriginProtection(handler))
      const { end, request } = made(type)
      const status = await Promise.resolve(page(request(headers))).then(
        (response) => response.status,
        (error: Error) => error.message,
      )
      assert.ok([403, 413, 415, 'the disk is full'].includes(status), `${status}`)
      assert.match(await end, /^(read|cancelled)$/)
    })
  }
  test('after a request with a token whose session cannot be read', async () => {
    const page = sessionManager({
      secret: randomBytes(32),
      backend: {
        name: 'broken',
        get: () => Promise.reject(new Error('down')),
      } as never,
    })(crossOriginProtection(forms({})))
    const { end, request } = made(MULTIPART)
    const headers = { 'x-csrf-token': 'x', cookie: `__Host-Http-sid=${'k'.repeat(43)}` }
    assert.equal((await page(request(headers))).status, 503)
    assert.match(await end, /^(read|cancelled)$/)
  })
})

test('a form with a valid token can be read after it was searched, in pieces of any size', async () => {
  const page = sessionManager({ backend: 'memory:' })(
    crossOriginProtection(async (request) => {
      if (request.method === 'GET') return new Response(await csrfToken(request))
      const form = await readForm(request)
      return Response.json(form.ok ? form.fields.get('a')?.length : form.error)
    }),
  )
  const visit = browser(page)
  const token = await (await visit('/')).text()
  const text = 'x'.repeat(30_000)
  for (const [type, body] of [
    [URLENCODED, `_csrf=${token}&a=${text}`],
    [MULTIPART, `${part(`${disposition}; name="_csrf"`, token)}${part(`${disposition}; name="a"`, text)}--b--\r\n`],
  ] as const) {
    for (const sizes of [[1], [1_000_000], [1, 60_000]]) {
      const init = { method: 'POST', headers: { 'content-type': type }, duplex: 'half' }
      const answer = await visit('/', { ...init, body: inPieces(Buffer.from(body), sizes) } as RequestInit)
      assert.equal(await answer.json(), text.length, `${type} ${sizes}`)
    }
  }
})
