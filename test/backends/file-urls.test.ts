// Paths in `file:` and `sqlite:` URLs: with three slashes a percent-encoded path, without them a plain one.

import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { suite, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { backendFromUrl, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import { folder } from '../support/folder.ts'

const SECRET = Uint8Array.from({ length: 32 }, (_, i) => i)

/** Names that a URL encodes, and names that look encoded. */
const NAMES = ['my shop ä', '100% of it', 'a%20b', 'a+b', 'a?b', 'a#b', 'a;b=c&d', '日本語 🦊', "it's", 'C:']

suite('a path in the URL of a backend', () => {
  for (const scheme of ['file', 'sqlite']) {
    test(`${scheme}: with three slashes is the path of a file URL, with every character in its name`, async (t) => {
      for (const name of NAMES) {
        const parent = folder(t)
        mkdirSync(join(parent, name))
        const path = join(parent, name, 'sessions')
        const { href } = pathToFileURL(path)
        const backend = await backendFromUrl(href.replace('file:', `${scheme}:`))
        await backend.close?.()
        assert.ok(existsSync(path), href)
        assert.deepEqual(readdirSync(parent), [name])
        await (await backendFromUrl(href.replace('file:///', `${scheme}://localhost/`))).close?.()
        assert.deepEqual(readdirSync(parent), [name], 'localhost is no part of the path')
      }
    })
    test(`${scheme}: without them is a plain path, in which nothing is decoded`, async (t) => {
      const parent = folder(t)
      for (const name of ['my shop', 'my%20shop', 'a?b#c', '100%']) {
        for (const path of [
          join(parent, name),
          relative('.', join(parent, name)),
          `//${relative('.', join(parent, name))}`,
        ]) {
          const backend = await backendFromUrl(`${scheme}:${path}`)
          await backend.close?.()
          assert.ok(readdirSync(parent).includes(name), path)
        }
      }
    })
    test(`${scheme}: the error for an invalid path contains the correct spelling`, async () => {
      const refusal = (message: RegExp) => ({ code: 'unknown_backend', message })
      await assert.rejects(backendFromUrl(`${scheme}:///tmp/a.db?mode=ro`), refusal(/\/tmp\/a.db\?mode=ro.*%3F/))
      await assert.rejects(backendFromUrl(`${scheme}:///tmp/a#b`), refusal(/%23/))
      await assert.rejects(backendFromUrl(`${scheme}:///tmp/100%`), refusal(/URI malformed.*%25/))
      await assert.rejects(backendFromUrl(`${scheme}:///tmp/a%2Fb`), refusal(/cannot be decoded/))
    })
  }
})

test('a URL object names the same backend as its href', async (t) => {
  const path = join(folder(t), 'my sessions')
  for (const backend of [pathToFileURL(path), new URL(pathToFileURL(`${path}.db`).href.replace('file:', 'sqlite:'))]) {
    const manager = sessionManager({ backend, secret: SECRET })
    t.after(() => manager.close())
    const send = browser(
      manager(async (request) => {
        ;(await session(request)).set('n', 1)
        return new Response()
      }),
    )
    assert.equal((await send('/')).status, 200)
  }
  assert.ok(existsSync(path) && existsSync(`${path}.db`))
  await (await backendFromUrl(new URL('memory:'))).close?.()
  assert.throws(() => sessionManager({ backend: new URL('https://shop.example/') }), {
    code: 'unknown_backend',
    message: /begins with/,
  })
  await assert.rejects(sessionManager({ backend: new URL('redis://localhost') }).ready(), { code: 'no_secret' })
})
