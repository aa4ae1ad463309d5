import { session } from '../../sessions'

const codeOf = (work: () => unknown): string => {
  try {
    work()
    return 'changed'
  } catch (error) {
    return (error as { code: string }).code
  }
}

/** A component that tries to change the session. */
export default async function Page() {
  const s = await session()
  const calls = [
    () => s.set('n', 7),
    () => s.update('n', () => 7),
    () => s.delete('n'),
    () => s.login('eve'),
    () => s.invalidate(),
    () => s.rotateKey(),
  ]
  const one = (await session()) === s
  return (
    <p id="codes">
      {calls.map(codeOf).join(' ')} {one ? 'one visit' : 'two visits'}
    </p>
  )
}
