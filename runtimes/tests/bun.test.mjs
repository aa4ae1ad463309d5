// The tests of `bun test`.

import { test } from 'bun:test'
import { defineTests } from './sessions.mjs'

defineTests(test)
