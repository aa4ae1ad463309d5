// The tests in Jest.

import { test } from '@jest/globals'
import { defineTests } from './sessions.mjs'

defineTests(test)
