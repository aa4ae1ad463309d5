import type { ReactNode } from 'react'
import { session, takeFlash } from '../sessions'

export default async function Layout({ children }: { children: ReactNode }) {
  const s = await session()
  return (
    <html lang="en">
      <body>
        <p id="owner">{s.owner ?? 'anonymous'}</p>
        <p id="cart">{s.get('cart')?.join(',') ?? ''}</p>
        <p id="n">{s.get('n') ?? 0}</p>
        <Messages />
        {children}
      </body>
    </html>
  )
}

async function Messages() {
  const messages = await takeFlash()
  return <p id="flash">{messages.map(({ text }) => text).join(';')}</p>
}
