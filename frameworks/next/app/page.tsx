import Link from 'next/link'
import { csrfField } from '../sessions'
import { add, count, disappear, fail, message, slow, unwrapped, upload } from './actions'

export default async function Page() {
  return (
    <main>
      <form action={add}>
        <input name="item" defaultValue="tea" />
        <button id="add">add</button>
      </form>
      {Object.entries({ count, disappear, fail, message, slow, unwrapped }).map(([name, action]) => (
        <form key={name} action={action as () => Promise<void>}>
          <button id={name}>{name}</button>
        </form>
      ))}
      <form id="upload" action={upload}>
        <input {...await csrfField()} type="hidden" />
        <input name="note" defaultValue="green" />
        <input name="file" type="file" />
        <button id="send">send</button>
      </form>
      <form action="/logout" method="post">
        <button id="logout">log out</button>
      </form>
      <Link id="to-login" href="/login">
        login
      </Link>
    </main>
  )
}
