// The adapters of light frameworks on the cases of adapters.

import { suite, test } from 'node:test'
import { adapterCases } from 'keepsake/testing'
import { frameworks } from '../support/frameworks.ts'

for (const [name, serve] of Object.entries(frameworks)) {
  suite(name, () => {
    for (const { name, run } of adapterCases) test(name, () => run(serve))
  })
}
