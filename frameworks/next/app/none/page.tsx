import { csrfField } from '../../sessions'

/** A page that the proxy leaves out. */
export default async function Page() {
  const code = await csrfField().then(
    () => 'a token',
    (error) => error.code,
  )
  return <p id="code">{code}</p>
}
