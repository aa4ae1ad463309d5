// Serves the application on Express, or with PLATFORM=fastify on Fastify.

import { NestFactory } from '@nestjs/core'
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify'
import { AppModule } from './app.module.js'

const app =
  process.env.PLATFORM === 'fastify'
    ? await NestFactory.create<NestFastifyApplication>(AppModule, new FastifyAdapter())
    : await NestFactory.create(AppModule)
app.enableShutdownHooks()
await app.listen(Number(process.env.PORT), '127.0.0.1')
console.log(`Listening on ${await app.getUrl()}`)
