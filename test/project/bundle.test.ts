// An application with SQLite alone, bundled without options where no driver is installed, and what comes out runs.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cpSync, mkdirSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { build } from 'esbuild'
import { folder } from '../support/folder.ts'

const root = resolve(import.meta.dirname, '../..')

for (const format of ['esm', 'cjs'] as const) {
  test(`esbuild bundles it to ${format}, with sessions, uploads and the words about a missing driver`, async (t) => {
    const here = folder(t)
    const put = (from: string, to: string) => {
      mkdirSync(dirname(join(here, to)), { recursive: true })
      cpSync(join(root, from), join(here, to), { recursive: true })
    }
    for (const name of ['srvx', '@fastify/busboy']) put(`node_modules/${name}`, `app/node_modules/${name}`)
    for (const name of ['src', 'package.json']) put(name, `app/node_modules/keepsake/${name}`)
    put('bundles/application.mjs', 'app/application.mjs')
    const outfile = join(here, `bundle.${format === 'esm' ? 'mjs' : 'cjs'}`)
    const { warnings } = await build({
      entryPoints: [join(here, 'app/application.mjs')],
      outfile,
      format,
      platform: 'node',
      bundle: true,
      logLevel: 'silent',
    })
    assert.deepEqual(warnings, [])
    const { stdout } = await promisify(execFile)(process.execPath, [outfile])
    assert.match(stdout, /^works$/m)
  })
}
