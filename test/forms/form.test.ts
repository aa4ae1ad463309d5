// readForm: each outcome of Dream's form, the order of fields, files within limits, and uploads after the token.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { csrfTag, csrfToken, type FormOptions, readForm, type Session, session, type UploadedFile } from 'keepsake'
import { serve } from 'keepsake/serve'
import { browser } from 'keepsake/testing'
import { z } from 'zod'
import { sessionManager } from '../../src/manager.ts'
import { runs } from '../support/quick.ts'
import { setup, type Visitor } from '../support/visits.ts'

const FORM = 'application/x-www-form-urlencoded'
const token = (visit: Visitor) => visit((_, request) => csrfToken(request)) as Promise<string>

type Outcome = {
  readonly outcome: string
  readonly fields?: [string, string][]
  readonly files?: [string, string, string, string][]
  readonly status?: number
  readonly expiredAt?: number
}

/** The name of a form's outcome, with its fields and files as text. */
const outcomeOf = async (request: Request, options?: FormOptions): Promise<Outcome> => {
  const form = await readForm(request, undefined, options)
  const { ok, ...rest } = form
  return {
    outcome: form.ok ? 'ok' : form.error,
    ...('status' in rest && { status: rest.status }),
    ...('expiredAt' in rest && { expiredAt: rest.expiredAt }),
    ...('fields' in form && {
      fields: [...form.fields],
      files: await Promise.all(
        form.files.map(
          async ([field, file]): Promise<[string, string, string, string]> => [
            field,
            file.name,
            file.type,
            await file.text(),
          ],
        ),
      ),
    }),
  }
}

const posted = (visit: Visitor, body: BodyInit | null, more: RequestInit & { options?: FormOptions } = {}) => {
  const { options, ...init } = more
  const answer = visit.raw(async (_, request) => Response.json(await outcomeOf(request, options)), {
    method: 'POST',
    body,
    ...init,
  })
  return answer.then((response) => response.json()) as Promise<Outcome>
}

const fieldsOf = (pairs: readonly (readonly [string, string])[], multipart: boolean): BodyInit => {
  if (!multipart) return new URLSearchParams(pairs.map(([name, value]) => [name, value]))
  const data = new FormData()
  for (const [name, value] of pairs) data.append(name, value)
  return data
}

for (const multipart of [false, true]) {
  suite(`a form, ${multipart ? 'multipart' : 'urlencoded'}`, () => {
    const body = (...pairs: (readonly [string, string])[]) => fieldsOf(pairs, multipart)

    test('D50: ok: the fields without the token, sorted by name, and fields of one name in their order', async () => {
      const h = await setup()
      const visit = h.visitor()
      const made = await token(visit)
      const sent = body(['b', '2'], ['a', 'x'], ['_csrf', made], ['ä', ''], ['a', 'w'], ['B', 'é 🦊'])
      assert.deepEqual(await posted(visit, sent), {
        outcome: 'ok',
        fields: [
          ['B', 'é 🦊'],
          ['a', 'x'],
          ['a', 'w'],
          ['b', '2'],
          ['ä', ''],
        ],
        files: [],
      })
      assert.equal(h.total(), 0, 'CSRF-8: an anonymous visitor needs no store call')
    })

    test('D50: expired, with the fields and the time of the expiry', async () => {
      const h = await setup()
      const visit = h.visitor()
      const made = await token(visit)
      const expiredAt = h.now() + 3_600_000
      h.now.tick(3_600_000)
      const outcome = await posted(visit, body(['_csrf', made], ['a', '1']))
      assert.deepEqual(outcome, { outcome: 'expired', status: 403, expiredAt, fields: [['a', '1']], files: [] })
    })

    test('D50: wrong_session, invalid_token, missing_token and many_tokens, each with the fields', async () => {
      const h = await setup()
      const [visit, other] = [h.visitor(), h.visitor()]
      const [made, others] = [await token(visit), await token(other)]
      const a: readonly [string, string] = ['a', '1']
      const carried = { status: 403, fields: [['a', '1']], files: [] }
      assert.deepEqual(await posted(visit, body(['_csrf', others], a)), { outcome: 'wrong_session', ...carried })
      assert.deepEqual(await posted(visit, body(['_csrf', 'x'], a)), { outcome: 'invalid_token', ...carried })
      assert.deepEqual(await posted(visit, body(a)), { outcome: 'missing_token', ...carried })
      const twice = body(['_csrf', made], a, ['_csrf', made])
      assert.deepEqual(await posted(visit, twice), { outcome: 'many_tokens', ...carried })
      assert.deepEqual(h.types.filter((type) => type === 'form_rejected').length, 4)
    })

    test('D54: a script sends the token in the header X-CSRF-Token', async () => {
      const h = await setup()
      const visit = h.visitor()
      const made = await token(visit)
      assert.equal((await posted(visit, body(['a', '1']), { headers: { 'x-csrf-token': made } })).outcome, 'ok')
      assert.equal(
        (await posted(visit, body(['a', '1']), { headers: { 'x-csrf-token': 'x' } })).outcome,
        'invalid_token',
      )
    })

    test('D50: csrf: false accepts a form without a token, and an action requires a token for that action', async () => {
      const h = await setup()
      const visit = h.visitor()
      assert.equal((await posted(visit, body(['q', 'tea']), { options: { csrf: false } })).outcome, 'ok')
      const made = (await visit((_, request) => csrfToken(request, { action: 'buy' }))) as string
      const sent = body(['_csrf', made])
      assert.equal((await posted(visit, sent, { options: { action: 'buy' } })).outcome, 'ok')
      assert.equal((await posted(visit, body(['_csrf', made]))).outcome, 'invalid_token')
    })

    test('a body over the limit of bytes or fields is too_large, and a body at the limit is not', async () => {
      const h = await setup()
      const visit = h.visitor()
      const made = await token(visit)
      const many = (n: number) => body(['_csrf', made], ...Array.from({ length: n }, (_, i) => [`f${i}`, ''] as const))
      assert.equal((await posted(visit, many(1000))).outcome, 'ok')
      assert.deepEqual(await posted(visit, many(1001)), { outcome: 'too_large', status: 413 })
      assert.equal((await posted(visit, many(3), { options: { maxFields: 2 } })).outcome, 'too_large')
      const bytes = 2 ** 20
      const large = (n: number) => body(['_csrf', made], ['text', 'x'.repeat(n)])
      assert.equal((await posted(visit, large(bytes - 1000))).outcome, 'ok')
      assert.equal((await posted(visit, large(bytes))).outcome, 'too_large')
      assert.equal((await posted(visit, large(bytes), { options: { maxBytes: bytes * 2 } })).outcome, 'ok')
    })

    test('all fields arrive as they were sent', async () => {
      const h = await setup()
      const visit = h.visitor()
      const made = await token(visit)
      // FormData turns every line break into CRLF, and not every parser accepts names with line breaks.
      const word = fc
        .string({ unit: 'grapheme', maxLength: 20 })
        .map((text) => text.replace(/[\r\n\0"\\%]/g, '').toWellFormed())
      await fc.assert(
        fc.asyncProperty(fc.array(fc.tuple(word, word), { maxLength: 8 }), async (pairs) => {
          const mine = pairs.filter(([name]) => name !== '_csrf' && name.trim() === name && name !== '')
          const { outcome, fields } = await posted(visit, body(['_csrf', made], ...mine))
          assert.equal(outcome, 'ok')
          const bytes = (name: string) => Buffer.from(name)
          const expected = [...mine].sort(([a], [b]) => Buffer.compare(bytes(a), bytes(b)))
          assert.deepEqual(fields, expected)
        }),
        { numRuns: runs(100) },
      )
    })

    test('a schema gives the fields a type, and if it refuses them, the outcome is invalid_fields with the issues', async () => {
      const h = await setup()
      const visit = h.visitor()
      const made = await token(visit)
      const schema = z.object({
        age: z.coerce.number().min(18),
        tag: z.array(z.string()),
        __proto__: z.never().optional(),
      })
      const read = (...pairs: (readonly [string, string])[]) =>
        visit
          .raw(async (_, request) => Response.json(await readForm(request, schema)), {
            method: 'POST',
            body: body(['_csrf', made], ...pairs),
          })
          .then((response) => response.json())
      const good = await read(['age', '20'], ['tag', 'a'], ['tag', 'b'])
      assert.deepEqual([good.ok, good.fields], [true, { age: 20, tag: ['a', 'b'] }])
      const bad = await read(['age', '17'], ['tag', 'a'], ['tag', 'b'])
      assert.deepEqual([bad.ok, bad.error, bad.status], [false, 'invalid_fields', 422])
      assert.deepEqual(bad.issues[0].path, ['age'])
    })
  })
}

suite('a body that is no form', () => {
  const types: Record<string, string> = {
    'no Content-Type': '',
    'another Content-Type': 'application/json',
    'a Content-Type with the right beginning': `${FORM}x`,
    'a multipart without a boundary': 'multipart/form-data',
  }
  for (const [name, type] of Object.entries(types)) {
    test(`${name} is wrong_content_type`, async () => {
      const h = await setup()
      const body = new Blob(['a=1'])
      const headers: Record<string, string> = type === '' ? {} : { 'content-type': type }
      assert.deepEqual(await posted(h.visitor(), body, { headers }), { outcome: 'wrong_content_type', status: 415 })
    })
  }
  test('D50: the Content-Type may have any case, spaces and parameters', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    for (const type of [FORM.toUpperCase(), `${FORM} ; charset=UTF-8`, `${FORM};charset=x`]) {
      const outcome = await posted(visit, new Blob([`_csrf=${made}&a=1`]), { headers: { 'content-type': type } })
      assert.equal(outcome.outcome, 'ok', type)
    }
  })
  test('D51: a multipart body that breaks off or is random bytes is wrong_content_type or missing_token', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    const whole = `--x\r\nContent-Disposition: form-data; name="_csrf"\r\n\r\n${made}\r\n--x\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\nhello\r\n--x--`
    const headers = { 'content-type': 'multipart/form-data; boundary=x' }
    assert.equal((await posted(visit, whole, { headers })).outcome, 'ok')
    for (let length = 0; length < whole.length; length += 3) {
      const { outcome } = await posted(visit, whole.slice(0, length), { headers })
      assert.ok(['wrong_content_type', 'missing_token'].includes(outcome), `${length}: ${outcome}`)
    }
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 300 }), async (rubbish) => {
        const { outcome } = await posted(visit, new Blob([`--x\r\n${rubbish}`]), { headers })
        assert.notEqual(outcome, 'ok')
      }),
      { numRuns: runs(200) },
    )
  })
  test('a body whose connection breaks off is wrong_content_type and no error', async () => {
    const h = await setup()
    const visit = h.visitor()
    for (const type of [FORM, 'multipart/form-data; boundary=x']) {
      const body = new ReadableStream({
        start: (controller) => controller.enqueue(Buffer.from('--x\r\n')),
        pull: (controller) => controller.error(new Error('connection reset')),
      })
      const init = { headers: { 'content-type': type }, duplex: 'half' } as RequestInit
      assert.equal((await posted(visit, body, init)).outcome, 'wrong_content_type')
    }
  })
  test('unknown options and invalid limits are refused', async () => {
    const h = await setup()
    const visit = h.visitor()
    for (const options of [{ maxByte: 5 }, { maxBytes: 0 }, { maxFields: Number.NaN }, { maxFileBytes: '1' }]) {
      await visit((_, request) =>
        assert.rejects(readForm(request, undefined, options as FormOptions), { code: 'invalid_option' }),
      )
    }
    await visit((_, request) => assert.rejects(readForm(request, { csrf: false } as never), { code: 'invalid_option' }))
  })
})

suite('files', () => {
  const withFiles = (made: string, ...files: [string, string, string][]): FormData => {
    const data = new FormData()
    data.append('_csrf', made)
    for (const [field, name, text] of files) data.append(field, new File([text], name, { type: 'text/plain' }))
    return data
  }
  test('D51: come beside the fields, sorted by field and without folders, and an empty input gives no file', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    const data = withFiles(made, ['b', 'x.txt', 'one'], ['a', '../../y.txt', 'two'])
    data.append('c', new File([], '', { type: 'application/octet-stream' }))
    data.append('text', 'words')
    assert.deepEqual(await posted(visit, data), {
      outcome: 'ok',
      fields: [['text', 'words']],
      files: [
        ['a', 'y.txt', 'text/plain', 'two'],
        ['b', 'x.txt', 'text/plain', 'one'],
      ],
    })
  })
  test('a file with the name of the token is no token', async () => {
    const h = await setup()
    const visit = h.visitor()
    const data = new FormData()
    data.append('_csrf', new File([await token(visit)], 'token'))
    assert.equal((await posted(visit, data)).outcome, 'missing_token')
  })

  /** Sends a form with files, and returns the outcome and the files that the upload function saw. */
  const uploaded = async (visit: Visitor, data: FormData, options: FormOptions = {}, take?: FormOptions['upload']) => {
    const seen: string[] = []
    const upload = async (file: UploadedFile) => {
      seen.push(`${file.field} ${file.filename} ${file.type}`)
      await take?.(file)
      if (take === undefined) seen.push(await new Response(file.stream).text())
    }
    return { ...(await posted(visit, data, { options: { upload, ...options } })), seen }
  }
  test('D52: an upload is a stream, and the function gets it only after the token was checked', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    const good = await uploaded(visit, withFiles(made, ['a', 'x.txt', 'one'], ['b', 'y.txt', 'two']))
    assert.deepEqual(good.seen, ['a x.txt text/plain', 'one', 'b y.txt text/plain', 'two'])
    assert.equal(good.outcome, 'ok')
    for (const [name, outcome] of [
      ['no', 'missing_token'],
      ['invalid', 'invalid_token'],
    ] as const) {
      const data = name === 'no' ? new FormData() : withFiles('invalid')
      data.append('a', new File(['one'], 'x.txt'))
      data.append('_csrf', made)
      assert.deepEqual(await uploaded(visit, data), {
        outcome,
        status: 403,
        fields: [],
        files: [],
        seen: [],
      })
    }
  })
  test('D52: with a token in the header, a file may come first', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    const data = new FormData()
    data.append('a', new File(['one'], 'x.txt'))
    const seen: string[] = []
    const upload = async ({ stream }: UploadedFile) => seen.push(await new Response(stream).text())
    const { outcome } = await posted(visit, data, { headers: { 'x-csrf-token': made }, options: { upload } })
    assert.deepEqual([outcome, seen], ['ok', ['one']])
  })
  test('bytes that the upload function does not read are discarded, and the next part follows', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    const big = 'x'.repeat(500_000)
    const { outcome, seen } = await uploaded(visit, withFiles(made, ['a', 'x', big], ['b', 'y', big]), {}, () => {})
    assert.deepEqual([outcome, seen.length], ['ok', 2])
  })
  test('a file over its limit is too_large and its stream fails, and a file at the limit is accepted', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    const size = 100_000
    const options = { maxFileBytes: size }
    const exact = await uploaded(visit, withFiles(made, ['a', 'x', 'x'.repeat(size)]), options)
    assert.equal(exact.outcome, 'ok')
    let read: unknown
    const take = async ({ stream }: UploadedFile) => {
      read = await new Response(stream).text().catch((error: Error) => error.message)
    }
    const over = await uploaded(visit, withFiles(made, ['a', 'x', 'x'.repeat(size + 1)]), options, take)
    assert.equal(over.outcome, 'too_large')
    assert.match(String(read), /too large/)
  })
  test('with uploads, maxBytes limits all fields together', async () => {
    const h = await setup()
    const visit = h.visitor()
    const fields = async (...sizes: number[]) => {
      const data = withFiles(await token(visit), ['a', 'x', 'x'.repeat(5000)])
      for (const size of sizes) data.append('text', 'x'.repeat(size))
      return (await uploaded(visit, data, { maxBytes: 1000 })).outcome
    }
    assert.equal(await fields(400, 400), 'ok')
    assert.equal(await fields(400, 400, 400), 'too_large')
    assert.equal(await fields(1001), 'too_large')
  })
  test('readForm throws the error of the upload function', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    const take = () => {
      throw new Error('the disk is full')
    }
    await assert.rejects(uploaded(visit, withFiles(made, ['a', 'x', 'one']), {}, take), /the disk is full/)
  })
  test('an upload that breaks off is wrong_content_type, and the error of its reader is dropped', async () => {
    const h = await setup()
    const visit = h.visitor()
    const made = await token(visit)
    const head = `--x\r\nContent-Disposition: form-data; name="_csrf"\r\n\r\n${made}\r\n--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n${'y'.repeat(200_000)}`
    const headers = { 'content-type': 'multipart/form-data; boundary=x' }
    const upload = async ({ stream }: UploadedFile) => void (await new Response(stream).arrayBuffer())
    assert.equal((await posted(visit, head, { headers, options: { upload } })).outcome, 'wrong_content_type')
  })
})

test('an upload whose connection breaks off in a file is wrong_content_type, and its reader gets an error at once', async () => {
  const h = await setup()
  const visit = h.visitor()
  const head = `--x\r\nContent-Disposition: form-data; name="_csrf"\r\n\r\n${await token(visit)}\r\n--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nsome of it`
  const { promise: handedOver, resolve: handOver } = Promise.withResolvers<void>()
  const body = new ReadableStream({
    start: (controller) => controller.enqueue(Buffer.from(head)),
    pull: async (controller) => {
      await handedOver
      controller.error(new Error('connection reset'))
    },
  })
  const errors: unknown[] = []
  const upload = async ({ stream }: UploadedFile) => {
    handOver()
    await new Response(stream).arrayBuffer().catch((error: Error) => errors.push(error.message))
  }
  const headers = { 'content-type': 'multipart/form-data; boundary=x' }
  const init = { headers, duplex: 'half', options: { upload } } as RequestInit
  assert.equal((await posted(visit, body, init)).outcome, 'wrong_content_type')
  assert.deepEqual(errors, ['The upload broke off.'])
})

test('over HTTP: a login form works for an anonymous visitor, with no entry before the login and one after', async (t) => {
  const h = await setup()
  const page = sessionManager({ backend: h.backend })(async (request) => {
    const s: Session = await session(request)
    if (request.method === 'GET') return new Response(`<form method="post">${await csrfTag(request)}</form>`)
    const form = await readForm(request)
    if (!form.ok) return new Response(form.message, { status: form.status })
    s.login(form.fields.get('user') ?? '')
    return new Response(`Welcome, ${s.owner}.`)
  })
  const running = await serve(page, { port: 0 })
  t.after(() => running.close())
  const visit = browser((request) => fetch(request), { origin: running.url })
  const tokenOf = async () => /value="([^"]+)"/.exec(await (await visit('/')).text())?.[1] as string
  const login = (body: URLSearchParams) => visit('/', { method: 'POST', body })
  const made = await tokenOf()
  assert.equal((await login(new URLSearchParams({ user: 'anna' }))).status, 403)
  assert.equal(h.total(), 0)
  const welcome = await login(new URLSearchParams({ _csrf: made, user: 'anna' }))
  assert.equal(await welcome.text(), 'Welcome, anna.')
  assert.equal(h.calls.generate, 1)
  assert.equal(h.total(), 1)
  const old = await login(new URLSearchParams({ _csrf: made, user: 'bert' }))
  assert.equal(await old.text(), 'You logged in or out after you opened this form. Please send it again.')
})

test('the rest of a refused body is read and discarded, so that its sender gets the response', async () => {
  const h = await setup()
  const { promise: read, resolve: end } = Promise.withResolvers<void>()
  let left = 20
  const body = new ReadableStream({
    pull: (controller) => {
      controller.enqueue(Buffer.alloc(2 ** 16, 'a'))
      if (--left > 0) return
      controller.close()
      end()
    },
  })
  const init = { headers: { 'content-type': FORM }, duplex: 'half', options: { maxBytes: 100 } } as RequestInit
  assert.equal((await posted(h.visitor(), body, init)).outcome, 'too_large')
  await read
})

test('over HTTP: the sender of a refused upload gets the response, and the connection is not cut', async (t) => {
  const page = sessionManager({ backend: 'memory:' })(async (request) => {
    const form = await readForm(request, undefined, { maxFileBytes: 1_000, upload: () => {} })
    return Response.json(form.ok ? 'ok' : form.error)
  })
  const running = await serve(page, { port: 0 })
  t.after(() => running.close())
  for (let time = 0; time < 5; time++) {
    const data = new FormData()
    data.append('a', new File([Buffer.alloc(8 * 2 ** 20)], 'big'))
    assert.equal(await (await fetch(running.url, { method: 'POST', body: data })).json(), 'missing_token')
  }
})
