// Cuts connections from which no answer comes: their network may have forgotten them.

import { nextTurn } from './client-state.ts'

type Watched = { unanswered: number; lastAnswer: number; timer: NodeJS.Timeout | undefined }

/**
 * Returns a function that makes a call to a server and watches its connection. If the server owes an answer and sends
 * none for `limit` milliseconds, `cut` is called. The timeouts of ioredis do not serve: if a process was suspended, its
 * timers fire before it reads its sockets, so they would end calls that were answered.
 */
export const cutIfSilent = (limit: number, cut: (node: string) => void) => {
  const nodes = new Map<string, Watched>()
  const watch = (node: string, watched: Watched, delay: number): void => {
    watched.timer = setTimeout(async () => {
      const { lastAnswer } = watched
      await nextTurn()
      if (watched.timer === undefined) return
      const rest = watched.lastAnswer + limit - performance.now()
      if (rest <= 0 && watched.lastAnswer === lastAnswer) cut(node)
      watch(node, watched, Math.max(rest, 1_000))
    }, delay)
  }
  return async <T>(node: string, call: () => Promise<T>): Promise<T> => {
    const watched = nodes.get(node) ?? { unanswered: 0, lastAnswer: 0, timer: undefined }
    nodes.set(node, watched)
    if (watched.unanswered++ === 0) {
      watched.lastAnswer = performance.now()
      watch(node, watched, limit)
    }
    try {
      return await call()
    } finally {
      watched.lastAnswer = performance.now()
      if (--watched.unanswered === 0) {
        clearTimeout(watched.timer)
        watched.timer = undefined
      }
    }
  }
}
