// Serves the application on Express, or with PLATFORM=fastify on Fastify. LOAD=1 opens the session of every request.

import { NestFactory } from '@nestjs/core'
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify'
import { AppModule } from './app.module.js'
import { LoadedModule } from './loaded.js'

const RootModule = process.env.LOAD === '1' ? LoadedModule : AppModule

const app =
  process.env.PLATFORM === 'fastify'
    ? await NestFactory.create<NestFastifyApplication>(RootModule, new FastifyAdapter())
    : await NestFactory.create(RootModule)
app.enableShutdownHooks()
await app.listen(Number(process.env.PORT), '127.0.0.1')
console.log(`Listening on ${await app.getUrl()}`)
