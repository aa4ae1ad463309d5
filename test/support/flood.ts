// Strangers begin twice the sessions that the heap of this process has room for; says how many are kept, and how many are not.

import { randomBytes } from 'node:crypto'
import { memoryBackend } from 'keepsake/memory'

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
  const version = randomBytes(6).toString('base64url')
  const entry = { value: JSON.stringify({ text }), metadata: '1.abc', expiresAt: 9e12, version }
  await backend.generate(randomBytes(32).toString('base64url'), entry)
}
console.log(JSON.stringify({ kept: count - evicted, evicted }))
