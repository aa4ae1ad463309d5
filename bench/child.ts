// A child process that answers questions.

import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export type Child = {
  ask<Answer>(question: unknown): Promise<Answer>
  end(): void
}

type Message = { readonly answer?: unknown; readonly error?: string }

/** Starts a file of `parts` as a process. It accepts one question at a time. */
export const start = (
  file: string,
  args: readonly string[] = [],
  flags: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
  output: 'silent' | 'visible' = 'visible',
): Child => {
  const path = fileURLToPath(new URL(`parts/${file}`, import.meta.url))
  const child = fork(path, args, {
    execArgv: ['--expose-gc', ...flags],
    env: { ...process.env, ...env },
    serialization: 'advanced',
    silent: output === 'silent',
  })
  let pending: { resolve(answer: unknown): void; reject(error: Error): void } | undefined
  child.on('message', ({ answer, error }: Message) => {
    if (error === undefined) pending?.resolve(answer)
    else pending?.reject(new Error(`${file} ${args.join(' ')}: ${error}`))
  })
  child.on('error', (error) => pending?.reject(error))
  child.on('exit', (code) => pending?.reject(new Error(`${file} ${args.join(' ')} ended with ${code}.`)))
  return {
    ask: <Answer>(question: unknown) =>
      new Promise<Answer>((resolve, reject) => {
        pending = { resolve: resolve as (answer: unknown) => void, reject }
        child.send(question as object)
      }),
    end: () => {
      if (child.connected) child.disconnect()
    },
  }
}

/** In a child process: answers questions until the parent process ends. */
export const answerQuestions = <Question>(answer: (question: Question) => unknown): void => {
  process.on('disconnect', () => process.exit(0))
  process.on('message', async (question: Question) => {
    try {
      process.send?.({ answer: await answer(question) })
    } catch (error) {
      process.send?.({ error: error instanceof Error ? String(error.stack) : String(error) })
    }
  })
}
