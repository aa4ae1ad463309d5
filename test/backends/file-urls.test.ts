// What `file:`, `sqlite:` and URL objects name: a path as it stands, or, with three slashes, one that is percent-encoded.

import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { suite, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { backendFromUrl, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import { folder } from '../support/folder.ts'

const SECRET = Uint8Array.from({ length: 32 }, (_, i) => i)

/** Names that a URL writes otherwise, or that look as if it did. */
const NAMES = ['my shop ä', '100% of it', 'a%20b', 'a+b', 'a?b', 'a#b', 'a;b=c&d', '日本語 🦊', "it's", 'C:']

suite('a path in the URL of a backend', () => {
  for (const scheme of ['file', 'sqlite']) {
    test(`${scheme}: with three slashes is that of a file URL, whatever is in its name`, async (t) => {
      for (const name of NAMES) {
        const place = folder(t)
        mkdirSync(join(place, name))
        const path = join(place, name, 'sessions')
        const { href } = pathToFileURL(path)
        const backend = await backendFromUrl(href.replace('file:', `${scheme}:`))
        await backend.close?.()
        assert.ok(existsSync(path), href)
        assert.deepEqual(readdirSync(place), [name])
        await (await backendFromUrl(href.replace('file:///', `${scheme}://localhost/`))).close?.()
        assert.deepEqual(readdirSync(place), [name], 'this host is none')
      }
    })
    test(`${scheme}: without them is a path as it stands`, async (t) => {
      const place = folder(t)
      for (const name of ['my shop', 'my%20shop', 'a?b#c', '100%']) {
        for (const path of [
          join(place, name),
          relative('.', join(place, name)),
          `//${relative('.', join(place, name))}`,
        ]) {
          const backend = await backendFromUrl(`${scheme}:${path}`)
          await backend.close?.()
          assert.ok(readdirSync(place).includes(name), path)
        }
      }
    })
    test(`${scheme}: of what is no path the error says what to write`, async () => {
      const refused = (message: RegExp) => ({ code: 'unknown_backend', message })
      await assert.rejects(backendFromUrl(`${scheme}:///tmp/a.db?mode=ro`), refused(/\/tmp\/a.db\?mode=ro.*%3F/))
      await assert.rejects(backendFromUrl(`${scheme}:///tmp/a#b`), refused(/%23/))
      await assert.rejects(backendFromUrl(`${scheme}:///tmp/100%`), refused(/URI malformed.*%25/))
      await assert.rejects(backendFromUrl(`${scheme}:///tmp/a%2Fb`), refused(/cannot be decoded/))
    })
  }
})

test('a URL object is taken by its href', async (t) => {
  const path = join(folder(t), 'my sessions')
  for (const backend of [pathToFileURL(path), new URL(pathToFileURL(`${path}.db`).href.replace('file:', 'sqlite:'))]) {
    const manager = sessionManager({ backend, secret: SECRET })
    t.after(() => manager.close())
    const visit = browser(
      manager(async (request) => {
        ;(await session(request)).set('n', 1)
        return new Response()
      }),
    )
    assert.equal((await visit('/')).status, 200)
  }
  assert.ok(existsSync(path) && existsSync(`${path}.db`))
  await (await backendFromUrl(new URL('memory:'))).close?.()
  assert.throws(() => sessionManager({ backend: new URL('https://shop.example/') }), {
    code: 'unknown_backend',
    message: /begins with/,
  })
  await assert.rejects(sessionManager({ backend: new URL('redis://localhost') }).ready(), { code: 'no_secret' })
})
