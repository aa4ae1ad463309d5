// The tests of `deno test`.

import { defineTests } from './sessions.mjs'

defineTests((name, run) => Deno.test(name, run))
