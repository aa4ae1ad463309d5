// Serves the cases of adapters by a controller for every path, on Express and on Fastify.

import type { Server, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { All, Controller, Module, Req, Res, StreamableFile } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify'
import { forNest } from 'keepsake/nest'
import type { Answer, Application, ServeApplication } from 'keepsake/testing'

type PassedRequest = { readonly method: string; readonly url: string }
type Passthrough = {
  status(status: number): unknown
  append?(name: string, value: string): unknown
  header(name: string, value: string): unknown
}
type Raw = ServerResponse & { readonly raw?: ServerResponse; hijack?(): unknown }

const isStream = (body: Answer['body']): body is ReadableStream<Uint8Array> => typeof body === 'object' && body !== null

/** Answers by the value that the method returns. */
const returning = ({ handle }: Application) => {
  @Controller()
  class Returning {
    @All('*')
    async answer(@Req() request: PassedRequest, @Res({ passthrough: true }) response: Passthrough) {
      const { status, headers, body } = await handle(request, request)
      response.status(status)
      for (const [name, value] of headers) {
        if (response.append !== undefined) response.append(name, value)
        else response.header(name, value)
      }
      return isStream(body) ? new StreamableFile(Readable.fromWeb(body as never)) : (body ?? undefined)
    }
  }
  return Returning
}

/** Answers by the response of Node. */
const writing = ({ handle }: Application) => {
  @Controller()
  class Writing {
    @All('*')
    async answer(@Req() request: PassedRequest, @Res() response: Raw) {
      const { status, headers, body } = await handle(request, request)
      response.hijack?.()
      const raw = response.raw ?? response
      raw.statusCode = status
      for (const [name, value] of headers) {
        if (name === 'set-cookie') raw.appendHeader(name, value)
        else raw.setHeader(name, value)
      }
      if (isStream(body)) Readable.fromWeb(body as never).pipe(raw)
      else raw.end(body ?? undefined)
    }
  }
  return Writing
}

const serving =
  (
    makeController: (application: Application) => new () => object,
    create: (module: new () => object) => Promise<{
      init(): Promise<unknown>
      close(): Promise<void>
      listen(port: number, host: string): Promise<unknown>
      getHttpServer(): Server
      getUrl(): Promise<string>
    }>,
  ): ServeApplication =>
  async (application) => {
    @Module({ imports: [forNest(application.manager)], controllers: [makeController(application)] })
    class CaseModule {}
    const app = await create(CaseModule)
    await app.listen(0, '127.0.0.1')
    return {
      url: await app.getUrl(),
      async close() {
        app.getHttpServer().closeAllConnections()
        await app.close()
      },
    }
  }

// The parsers would read the bodies of the cases: without them readForm does.
const onExpress = async (module: new () => object) => {
  const app = await NestFactory.create(module, { bodyParser: false, logger: false })
  // Express would add an ETag to the page of an error too.
  app.getHttpAdapter().getInstance().disable('etag')
  return app
}

const onFastify = async (module: new () => object) => {
  const adapter = new FastifyAdapter()
  const app = await NestFactory.create<NestFastifyApplication>(module, adapter, { bodyParser: false, logger: false })
  const instance = adapter.getInstance()
  instance.removeAllContentTypeParsers()
  instance.addContentTypeParser('*', (_request: unknown, _payload: unknown, done: (error: null) => void) => done(null))
  return app
}

export const servers: Readonly<Record<string, ServeApplication>> = {
  'Express, by the returned value': serving(returning, onExpress),
  'Express, by @Res()': serving(writing, onExpress),
  'Fastify, by the returned value': serving(returning, onFastify),
  'Fastify, by @Res()': serving(writing, onFastify),
}
