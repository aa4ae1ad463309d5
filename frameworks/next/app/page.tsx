import Link from 'next/link'
import { csrfField } from '../sessions'
import { add, count, disappear, fail, message, slow, unwrapped, upload } from './actions'

export default async function Page() {
  return (
    <main>
      <form action={add}>
        <input name="item" defaultValue="tea" />
        <button type="submit" id="add">
          add
        </button>
      </form>
      {Object.entries({ count, disappear, fail, message, slow, unwrapped }).map(([name, action]) => (
        <form key={name} action={action as () => Promise<void>}>
          <button type="submit" id={name}>
            {name}
          </button>
        </form>
      ))}
      <form id="upload" action={upload}>
        <input {...(await csrfField())} type="hidden" />
        <input name="note" defaultValue="green" />
        <input name="file" type="file" />
        <button type="submit" id="send">
          send
        </button>
      </form>
      <form action="/logout" method="post">
        <button type="submit" id="logout">
          log out
        </button>
      </form>
      <Link id="to-login" href="/login">
        login
      </Link>
    </main>
  )
}
