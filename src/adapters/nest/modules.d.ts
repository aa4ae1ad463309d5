// The parts of an optional peer dependency that the adapter imports, for a project that has not installed it.

declare module '@nestjs/common' {
  export class HttpException extends Error {
    constructor(response: string, status: number, options?: { cause?: unknown })
  }
}
