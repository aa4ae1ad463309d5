'use client'

export default function Failed({ error }: { error: Error & { digest?: string } }) {
  return <p id="error">{error.digest}</p>
}
