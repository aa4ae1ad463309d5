// A CommonJS application on Node 22 and newer: `require()` of the package has its types.

import keepsake = require('keepsake')
import express = require('keepsake/express')
import serving = require('keepsake/serve')

const manager: keepsake.SessionManager = keepsake.sessionManager({ backend: 'memory:' })

const middleware = express.forExpress(manager)
const server: Promise<serving.Server> = serving.serve(manager(() => new Response('hello')))

export = { middleware, server }
