import { redirect } from 'next/navigation'
import { addFlash, saving, session } from '../../sessions'

export const POST = saving(async (_: Request) => {
  const s = await session()
  s.invalidate()
  addFlash('info', 'Goodbye.')
  redirect('/')
})
