// Each example of a framework counts the visits of a visitor.

import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'node:test'
import { browser } from 'keepsake/testing'
import { start } from '../support/process.ts'

const folder = 'examples/frameworks'

for (const file of readdirSync(join(resolve(import.meta.dirname, '../..'), folder)).filter((name) =>
  name.endsWith('.ts'),
)) {
  test(`${folder}/${file}`, async (t) => {
    const { lines, errors } = start(t, join(folder, file), [], { PORT: '0' })
    const { value = '' } = await lines.next()
    const url = /http:\S+/.exec(value)?.[0] ?? assert.fail(errors())
    const visit = browser((request) => fetch(request), { origin: url })
    for (const times of [1, 2, 3]) assert.equal(await (await visit('/')).text(), `You were here ${times} times.`)
    assert.equal(await (await fetch(url)).text(), 'You were here 1 times.')
  })
}
