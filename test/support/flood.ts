// Creates twice the sessions that fit into the heap of this process, and prints how many were kept and how many were evicted.

import { randomBytes } from 'node:crypto'
import { memoryBackend } from 'keepsake/memory'
import { entryWith, freshKey } from './entries.ts'

const [megabytes, characters, bytesEach] = process.argv.slice(2).map(Number) as [number, number, number]
let evicted = 0
const backend = memoryBackend({
  onEvent: ({ type }) => {
    if (type === 'evicted') evicted++
  },
})
const count = Math.ceil((2 * megabytes * 2 ** 20) / (characters * bytesEach + 250))
for (let i = 0; i < count; i++) {
  const text = (bytesEach === 2 ? '€' : '') + randomBytes(characters / 2).toString('hex')
  await backend.generate(freshKey(), entryWith({ value: JSON.stringify({ text }), expiresAt: 9e12 }))
}
console.log(JSON.stringify({ kept: count - evicted, evicted }))
