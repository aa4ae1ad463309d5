// An application with SQLite is bundled without options and without any installed driver, and the bundle runs.

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
  test(`esbuild bundles it to ${format}: sessions, uploads and the error of a missing driver work`, async (t) => {
    const directory = folder(t)
    const copy = (from: string, to: string) => {
      mkdirSync(dirname(join(directory, to)), { recursive: true })
      cpSync(join(root, from), join(directory, to), { recursive: true })
    }
    for (const name of ['srvx', '@fastify/busboy']) copy(`node_modules/${name}`, `app/node_modules/${name}`)
    for (const name of ['src', 'package.json']) copy(name, `app/node_modules/keepsake/${name}`)
    copy('bundles/application.mjs', 'app/application.mjs')
    const outfile = join(directory, `bundle.${format === 'esm' ? 'mjs' : 'cjs'}`)
    const { warnings } = await build({
      entryPoints: [join(directory, 'app/application.mjs')],
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
