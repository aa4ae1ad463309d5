// The tests in Vitest.

import { test } from 'vitest'
import { defineTests } from './sessions.mjs'

defineTests(test)
