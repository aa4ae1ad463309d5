import { csrfField } from '../../sessions'
import { login } from '../actions'

export default async function Page() {
  return (
    <form action={login}>
      <input {...(await csrfField())} type="hidden" />
      <input name="name" defaultValue="anna" />
      <button type="submit" id="login">
        login
      </button>
    </form>
  )
}
