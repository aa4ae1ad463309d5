// The tests in node:test.

import { test } from 'node:test'
import { defineTests } from './sessions.mjs'

defineTests(test)
